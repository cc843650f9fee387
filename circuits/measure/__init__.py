"""One question per file: a verb over explicit inputs, and a frozen result that knows its frame and its figure.

residual    where is the information?                    attention   what do heads attend to?
blocks      which single block matters?                  heads       which single head matters?
groups      which stage matters, at which position?      head_sets   do these heads carry it together?
directions  which direction carries the behaviour?       writes      where does it enter the residual stream?
behaviour   does the model do it, and does it stop when the direction is gone?
patched_behaviour  and when components are patched?      transfer    do classes found on pairs hold on other prompts?
head_writes which heads write the direction?             ov          from what, and which tokens?
lens, attribution  who moves the metric directly?        unembedding which tokens does the direction speak to?
clamping    what does the component's size do?           interaction do two components need or replace each other?
screens     which components and edges, by gradients?    paths       which connection, exactly?
circuit     do these edges carry it with all others cut? how few do?
self_repair, repair_identity  what makes up for what was removed?
layer_directions, concept_choice  a concept's direction by layer, and the one that acts
concepts    one direction or two?                        classes     where do classes of prompts separate?
padding     what does batching change?                   prompt_sets whose prompts, and how paired?
steering    what does an edit do as it grows?            capability  what does it cost elsewhere?
planes, rotation   what turns around a plane?            token_shifts  which words become likelier?
attention_text  where on the text do heads look?         features    what does an autoencoder see in it?

Files here never import each other; what two share stands below, in `frames` and `tables`.
"""
