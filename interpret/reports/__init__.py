"""What every report is made of: pages and pictures.

Imports `common` alone.
"""
