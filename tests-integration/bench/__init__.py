"""Measures clstr beside what a Python user would pick instead."""
