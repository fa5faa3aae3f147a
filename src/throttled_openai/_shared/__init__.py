"""SHARE. One budget of several processes: the step that divides it, and the store or broker in which it runs."""
