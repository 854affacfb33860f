"""The built-in captioned world: scenes of shapes and emoji, drawn as they are asked for.

`World(WorldConfig())[index]` (`world.World`, `scene.WorldConfig`) is an image and its caption;
`scene(index)` is the ground truth behind them. The same configuration and index give the same scene
on every machine, and for shapes the same bytes. The parts, each importing those before it:

scene (vocabulary and ground truth) < shapes < scenery < compose < layout, grammar, render < world
"""
