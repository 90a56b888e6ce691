"""From a request to pixels: settings, noise schedule, solver, loop, and the pipeline over them."""
