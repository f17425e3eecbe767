"""What `watch` holds true of a running loop: an invariant a class, with what it does before and after each step."""
