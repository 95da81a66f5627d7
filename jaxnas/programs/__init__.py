"""What is compiled: an epoch of steps, evaluation and validation, and the states of many seeds as one."""
