"""Word lists the skills share."""

from __future__ import annotations

ONSETS = tuple("b d f g h j k l m n p r s t v w z br dr fl gr kr pl tr st sh".split())
CODAS = ("", "", "", "n", "r", "l", "s", "x", "m", "k", "th")

FIRST_NAMES = tuple(
    """Ada Alan Alice Anna Ben Bob Boris Carla Carol Chen Clara Dan David Diana Elena Emil Emma
    Eric Eva Felix Fiona Frank Grace Hana Harry Hugo Ida Ines Ivan Jack Jane Jonas Julia Karl Kate
    Kim Laura Leo Lena Lina Lucas Lucy Maria Marco Max Maya Mia Nina Noah Olga Omar Oscar Paul
    Peter Priya Rosa Ruth Sam Sara Simon Sofia Sven Theo Tom Vera Victor Wendy Yuki Zoe""".split()
)

COMMON = tuple(
    """apple pear plum fig grape lemon melon orange peach cherry banana mango bread butter cheese
    honey milk salt sugar tea coffee water juice soup rice bean corn onion carrot potato tomato
    cat dog fox wolf bear deer horse cow goat sheep pig hen duck goose owl crow eagle hawk robin
    fish shark whale frog toad snake lizard mouse rat rabbit otter badger tiger lion zebra camel
    tree leaf root branch flower grass forest field river lake sea ocean island beach hill
    mountain valley cave desert rain snow wind storm cloud sun moon star sky night day morning
    evening winter spring summer autumn red blue green yellow purple black white brown grey pink
    house door window wall roof floor room kitchen garden gate fence road street bridge town city
    village market shop school office station harbour castle tower temple church museum library
    table chair bed lamp clock mirror carpet curtain shelf box bag basket bottle cup plate bowl
    knife fork spoon pan pot oven candle key lock rope hammer nail saw ladder wheel engine boat
    ship train plane car truck bicycle rocket ticket map letter paper pencil book page story song
    poem music drum flute violin piano guitar dance game ball kite doll puzzle prize king queen
    prince knight wizard dragon giant ghost robot baker doctor farmer miner painter pilot sailor
    singer teacher writer judge guard hunter tailor gold silver iron copper glass stone sand clay
    wood cotton wool silk leather amber ruby pearl diamond happy sad brave calm clever eager
    gentle honest kind lazy loud proud quick quiet sharp shy silly slow smart soft strong sweet
    tall tiny warm wise young ancient bright cold dark deep dry empty fast fresh hard heavy hot
    light long narrow new old open plain rich round short simple small smooth thick thin wide
    order invoice account user customer product price stock weather forecast temperature email
    message note task event meeting report file folder image video playlist song alarm timer
    reminder calendar contact profile address flight hotel taxi parcel recipe translation news
    server backup sensor heater camera printer project budget salary receipt refund coupon score
    level battery signal channel battle planet comet crystal feather bucket anchor hazel maple
    cedar willow ivory scarlet velvet copper orbit pixel vector matrix bravo delta""".split()
)

ANIMALS = tuple("fox cat dog owl bear rabbit otter mouse frog goat wolf duck".split())
PLACES = tuple("forest village castle harbour valley garden city island mountain lake".split())
THINGS = tuple("hat lamp map drum kite book boat bell ring lantern shell coin".split())
FEELINGS = tuple("happy brave calm kind clever proud quiet gentle".split())
WEATHER = tuple("sunny rainy cloudy windy snowy foggy stormy clear".split())
