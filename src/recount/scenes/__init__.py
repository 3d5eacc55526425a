"""What recount draws: crowds, shapes, captions, car parks."""
