"""Cities that exist, and syllables to make towns of."""

from radixserve.demo.corpus.pool import combinations, pool

KNOWN = pool(
    """
    Turin, Milan, Rome, Naples, Genoa, Bologna, Florence Bay, Verona, Palermo, Trieste, Bergamo
    Parma
    Paris, Lyon, Nantes, Bordeaux, Lille, Rennes, Toulouse, Marseille, Dijon, Grenoble, Nice, Rouen
    Berlin, Hamburg, Munich, Cologne, Leipzig, Dresden, Bremen, Stuttgart, Bonn, Kiel, Mainz
    Rostock
    Madrid, Seville, Valencia, Bilbao, Granada, Malaga, Zaragoza, Cordoba, Cadiz, Toledo, Vigo
    Girona
    London, Leeds, Bristol, York, Bath, Oxford, Cambridge, Exeter, Norwich, Durham, Cardiff, Swansea
    Glasgow, Edinburgh, Dundee, Dublin, Cork, Galway, Belfast, Limerick, Oslo, Bergen, Trondheim
    Tromso
    Stockholm, Uppsala, Malmo, Lund, Copenhagen, Aarhus, Odense, Aalborg, Helsinki, Tampere, Turku
    Oulu
    Vienna, Graz, Linz, Salzburg, Zurich, Basel, Geneva, Lausanne, Prague, Brno, Warsaw, Krakow
    Gdansk, Poznan, Lodz, Budapest, Debrecen, Bucharest, Sofia Park, Zagreb, Split, Belgrade
    Tallinn, Riga
    Lisbon, Porto, Braga, Coimbra, Faro, Athens, Patras, Izmir, Ankara, Bursa, Antalya, Konya
    Cairo, Tunis, Rabat, Accra, Lagos, Nairobi, Kampala, Lusaka, Harare, Durban, Pretoria, Windhoek
    Delhi, Mumbai, Pune, Jaipur, Chennai, Kolkata, Lahore, Karachi, Dhaka, Colombo, Hanoi, Manila
    Tokyo, Osaka, Kyoto, Nagoya, Sapporo, Kobe, Seoul, Busan, Taipei, Bangkok, Jakarta, Penang
    Boston, Chicago, Denver, Seattle, Portland, Austin, Dallas, Houston, Atlanta, Memphis, Tucson
    Omaha
    Toronto, Montreal, Ottawa, Quebec, Halifax, Calgary, Lima, Quito, Bogota, Santiago, Rosario
    Recife
    """
)

SYLLABLES = combinations(
    "Ash Brad Cold Dun East Fair Glen Hart Kings Lang Mill North Oak Pem Red Stan Thorn West Win",
    "bridge bury by field ford ham haven hurst ley mere minster mouth port stead ton well wick",
)
