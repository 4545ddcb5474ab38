//! The real `crisp-pod`, spoken to over its socket.

mod life;
mod pod;
