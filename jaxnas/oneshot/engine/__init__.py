"""What runs every one-shot method: options, plan, loop, seeds, results."""
