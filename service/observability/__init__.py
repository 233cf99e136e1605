"""What is measured and written down: metrics, one line of log for each request.

Imports control and `engine.types`.
"""
