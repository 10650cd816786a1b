"""Knowledge: what people remember and keep, each thing in versions of one owner's."""
