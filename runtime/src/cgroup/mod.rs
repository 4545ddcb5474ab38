//! Control groups: where a container is placed, limited, counted and killed.
