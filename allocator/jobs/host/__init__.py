"""What jobs need of the machine they run on: disk, memory, cleaning up."""
