"""Word pools of the generators, written for this project. Order matters: it decides every seed."""

from __future__ import annotations

from typing import Final

NAMES: Final = tuple(
    "Anna Bob Carl Dana Emil Fay Gus Hana Ivan Jane Kofi Lena Mia Noah Olga Pia Quin Rosa Sam Tara "
    "Uma Vera Will Xena Yara Zoe Amir Bela Cleo Dov Elif Finn Gita Hugo Ines Jun Kira Leo Mara Nils "
    "Omar Paul Rita Sven Tom Ugo Viktor Wendy".split()
)
THINGS: Final = tuple(
    "key book lamp ring coin map cup hat bell drum kite rope scarf brush knife spoon plate glove "
    "clock flute basket ladder mirror pencil shovel whistle blanket bottle candle compass helmet "
    "jacket kettle lantern marble notebook pillow ribbon saddle teapot umbrella violin wallet ball "
    "stamp apple pear shell".split()
)
PLACES: Final = tuple(
    "attic barn cellar garden kitchen library office tower cave harbor market museum orchard park "
    "school shed stable station temple theater tunnel village workshop yard bakery castle chapel "
    "forest garage hotel mill tent".split()
)
CITIES: Final = tuple(
    "Oslo Paris Rome Cairo Lima Quito Tokyo Delhi Accra Berlin Boston Dublin Havana Lagos Lisbon "
    "London Madrid Milan Moscow Nairobi Prague Riga Seoul Sofia Sydney Tunis Vienna Warsaw "
    "Zurich Bergen Hanoi Porto".split()
)
ANIMALS: Final = tuple(
    "ant bear cat dog eagle fox goat horse ibis jackal koala lion mouse newt otter panda quail "
    "rabbit seal tiger wolf yak zebra badger camel deer falcon goose heron lizard monkey owl "
    "parrot raven shark turtle".split()
)
COLORS: Final = tuple(
    "red blue green black white yellow brown pink gray purple orange gold".split()
)
JOBS: Final = tuple(
    "baker farmer pilot nurse painter sailor teacher judge miner tailor doctor singer".split()
)
NONSENSE: Final = tuple(
    "dax wug fep zib blick toma gorp plim snark vorp tove kiv mup rill yern quaz lomb drit "
    "hesk jub".split()
)
ADJECTIVES: Final = tuple(
    "able brave calm dark eager fair gentle happy icy jolly kind lively merry neat odd proud quiet "
    "rapid shy tiny warm young bright clever deep fresh green humble light mild noble old plain "
    "rich soft tall wise bold cold dry fast good hot long new poor rare sad".split()
)
NOUNS: Final = tuple(
    "air bird cloud dawn earth fire grass hill island jewel king leaf moon night ocean path queen "
    "rain sea tree valley wind year star stone song snow river road rose plant peace music "
    "mountain meadow lake garden flower field dream day child bridge autumn winter summer spring "
    "silver shadow sun sky light".split()
)
VERBS: Final = tuple(
    "asks bakes calls dances eats falls grows helps jumps knits laughs moves nods opens plays rests "
    "sings turns wakes waits walks writes runs rides reads paints looks listens leaps hides "
    "glows flies drifts digs climbs builds begs".split()
)
