"""One question per file: a verb over explicit inputs, and a frozen result that knows its frame and its figure.

residual    where is the information?                    attention   what do heads attend to?
blocks      which single block matters?                  heads       which single head matters?
groups      which stage matters, at which position?      head_sets   do these heads carry it together?
directions  which direction carries the behaviour?       writes      where does it enter the residual stream?
behaviour   does the model do it, and does it stop when the direction is gone?

Files here never import each other; what two share stands below, in `frames` and `tables`.
"""
