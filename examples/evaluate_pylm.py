def write_card(*a): print(a)
