"""What neurons answer to: the job.

Imports the rooms above `studies`.
"""
