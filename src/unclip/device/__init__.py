"""Devices, data types, instruction sets and memory: what this machine has."""
