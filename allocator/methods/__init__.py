"""Solution methods: how a layer is solved for all ranks. One file each, and a registry that everything else is made from."""
