"""What a module is: interface, operators, weights, cost."""
