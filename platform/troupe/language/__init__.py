"""Language models in the Hugging Face layout: what rollouts and learners open, and a small one to start with."""
