"""The built wheels, installed as readers would."""
