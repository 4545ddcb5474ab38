//! Exit records: what is left of a container when its process is gone.
