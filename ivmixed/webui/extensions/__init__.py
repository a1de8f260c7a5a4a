"""What is known of other extensions: AnimateDiff, ControlNet, Lora."""
