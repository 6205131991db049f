"""Imports what a job needs. The server that worker processes are forked from imports this module and nothing else."""

from initlab.sweep.preflight import import_libraries

import_libraries()
