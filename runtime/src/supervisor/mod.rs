//! The process `crisp-pod`: parent of a pod's containers.
