"""Surnames that people have, and syllables to make others of."""

from radixserve.demo.corpus.pool import combinations, pool

KNOWN = pool(
    """
    Lopez, Garcia, Martinez, Romero, Navarro, Ortega, Castillo, Mendoza, Vargas, Fuentes, Salazar
    Rossi, Bianchi, Ricci, Moretti, Conti, Ferrara, Lombardi, Galli, Marchetti, Rinaldi, Caruso
    Keller, Fischer, Weber, Schneider, Hoffmann, Becker, Vogel, Brandt, Lehmann, Richter, Zimmer
    Larsen, Nilsson, Lindqvist, Hansen, Dahl, Berggren, Holm, Sorensen, Nyberg, Ekstrom, Haugen
    Novak, Kowalski, Dvorak, Horvat, Nemeth, Popescu, Ionescu, Petrov, Ivanov, Sokolov, Volkov
    Tanaka, Sato, Suzuki, Yamada, Kimura, Nakano, Okada, Fujita, Ishii, Hayashi, Morita
    Chen, Wang, Zhang, Liu, Huang, Zhou, Nguyen, Tran, Pham, Santos, Reyes
    Patel, Sharma, Gupta, Mehta, Kapoor, Nair, Reddy, Iyer, Banerjee, Chopra, Malhotra
    Okafor, Mensah, Diallo, Adeyemi, Banda, Moyo, Kamau, Otieno, Traore, Nkosi, Abebe
    Haddad, Mansour, Farouk, Nasser, Saleh, Khoury, Rahimi, Karimi, Yilmaz, Demir, Kaya
    Dubois, Laurent, Moreau, Girard, Fontaine, Mercier, Chevalier, Renaud, Lefevre, Marchand, Perrin
    Smith, Jones, Taylor, Walker, Harris, Clarke, Turner, Collins, Murphy, Bennett, Russell
    Hughes, Morgan, Fletcher, Barker, Sinclair, Douglas, Fraser, Wallace, Gallagher, Sheridan, Doyle
    Whitaker, Hargreaves, Pemberton, Lockwood, Ashworth, Bradshaw, Thornton, Winslow, Hale, Quigley
    Silva, Costa, Pereira, Almeida, Carvalho, Teixeira, Papadakis, Markou, Stavros, Koskinen
    Virtanen
    """
)

SYLLABLES = combinations(
    "Bar Cal Dor Fen Gal Hol Kel Lan Mar Nor Pel Ros Sel Tor Ul Ven Wil Yar Zan Brin Crom Stan",
    "den ford ley man ner rick sen ska ton vic well wick berg dal field gard holt lund mont ova",
)
