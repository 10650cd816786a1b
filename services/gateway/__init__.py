"""The HTTP face: it carries calls to the gate and to the services, and decides nothing but what a request must look like."""
