"""Who asks, how much may be asked for, and who is let in.

Imports control and `service.errors`.
"""
