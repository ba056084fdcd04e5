"""Metrics: what ranks cost. One file each, a registry that everything else is made from, and the costs of whole models."""
