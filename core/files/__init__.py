"""Folders and files on disk that are whole or not there."""
