"""What only this repository needs: its fault catalogue, mutants and public surface."""
