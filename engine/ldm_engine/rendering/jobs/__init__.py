"""From a job file to images to render: its rows, their ids, and the pictures that they name."""
