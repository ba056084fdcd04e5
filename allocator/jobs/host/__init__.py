"""The machine that jobs run on: disk, standard error, cleaning up, checks of a deployment."""
