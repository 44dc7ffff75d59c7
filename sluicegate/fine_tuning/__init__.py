"""Fine-tuning: what is asked of training data before a job may start, and the jobs."""
