"""What every study needs and that knows no neurons: progress, versions, executors, scores of translations.

Imports control alone.
"""
