"""The integer program: formulation, independent bound, enumeration, HiGHS."""
