"""What weight initialisation does to a neural network, measured over replicas."""
