"""What every room needs: errors, paths, whole files, the console, workers."""
