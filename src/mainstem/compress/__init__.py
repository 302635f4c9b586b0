"""Methods that make a model smaller and faster, one file each, and what turns a model folder into a compressed one."""
