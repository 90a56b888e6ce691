"""How one program is executed: the contract, one file a library, and which one is chosen."""
