"""Discovery methods, one file each; `interpret.registry` knows them."""
