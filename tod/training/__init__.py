"""One cycle's training, and the device that it runs on."""
