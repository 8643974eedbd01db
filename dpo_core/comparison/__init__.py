"""Which of two ways to draw is preferred, asked without saying which picture is whose."""
