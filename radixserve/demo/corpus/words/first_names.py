"""First names, by the pronoun that goes with them; and syllables to make rarer ones of."""

from radixserve.demo.corpus.pool import combinations, pool

FEMALE = pool(
    """
    Maria, Anna, Julia, Sofia, Laura, Ingrid, Emma, Clara, Nadia, Helen, Ruth, Astrid
    Alice, Irene, Teresa, Monica, Priya, Yara, Amara, Leila, Fatima, Noor, Zainab, Miriam
    Olga, Katya, Svetlana, Vera, Irina, Daria, Hana, Yuki, Aiko, Keiko, Sakura, Mei
    Ling, Xia, Jing, Linh, Thuy, Siti, Ayu, Dewi, Chloe, Camille, Manon, Elise
    Margot, Odette, Greta, Heidi, Frieda, Lotte, Ilse, Sigrid, Freya, Solveig, Maren, Tuva
    Carmen, Pilar, Lucia, Ines, Beatriz, Catarina, Rosa, Elena, Paola, Chiara, Giulia, Bianca
    Grace, Hannah, Martha, Abigail, Naomi, Esther, Judith, Rachel, Susan, Karen, Linda, Deborah
    Nancy, Joan, Joyce, Diane, Wendy, Tracy, Holly, Molly, Penelope, Beatrice, Harriet, Florence
    Imani, Zola, Thandi, Nia, Ayana, Makena, Adaeze, Chioma, Folake, Sade, Abena, Efua
    Rania, Samira, Yasmin, Dalia, Huda, Salma, Meera, Anjali, Kavya, Lakshmi, Sunita, Deepa
    Agnes, Edith, Mabel, Hazel, Ivana, Milena, Zuzana, Petra, Agata, Kinga, Magda, Halina
    Aino, Helmi, Kaisa, Saara, Liisa, Tarja, Eleni, Despina, Ioanna, Sinead, Aoife, Niamh
    """
)

MALE = pool(
    """
    Peter, Paul, David, Daniel, Michael, Tobias, Simon, Thomas, Martin, Robert, Frank, Gregor
    Bruno, Marco, Paolo, Luca, Matteo, Lorenzo, Giorgio, Enzo, Dario, Fabio, Nico, Sandro
    Carlos, Diego, Pablo, Javier, Miguel, Rafael, Andres, Hugo, Tomas, Felipe, Joaquin, Ramon
    Hans, Karl, Jonas, Lukas, Felix, Anton, Emil, Oskar, Ludwig, Dieter, Klaus, Rainer
    Erik, Lars, Magnus, Nils, Sven, Henrik, Anders, Bjorn, Olaf, Gunnar, Stellan, Torsten
    Ivan, Boris, Dmitri, Sergei, Pavel, Mikhail, Andrei, Oleg, Viktor, Yuri, Bogdan, Stefan
    Kenji, Hiroshi, Takeshi, Satoshi, Daiki, Haruto, Wei, Jun, Chen, Bao, Minh, Duc
    Omar, Hassan, Karim, Tariq, Yusuf, Khalid, Ahmed, Ibrahim, Mustafa, Faisal, Rashid, Jamal
    Arjun, Rohan, Vikram, Sanjay, Anil, Ravi, Kiran, Deepak, Manoj, Suresh, Nikhil, Harish
    Kwame, Kofi, Chidi, Emeka, Tunde, Sipho, Themba, Jabari, Ade, Obinna, Femi, Sekou
    Adam, Oliver, Henry, Arthur, Walter, Leonard, Edgar, Ralph, Stanley, Gilbert, Rupert, Clive
    Callum, Duncan, Angus, Ewan, Liam, Declan, Ronan, Seamus, Niall, Rhys, Gareth, Dylan
    """
)

FEMALE_SYLLABLES = combinations(
    "Ad Bel Cor Dal El Fal Gal Ha Is Jo Kal Lor Mal Nel Or Per Ris Sel Tal Ul Ver Wil Yes Zel",
    "ena ina ora ira isa elle anna etta ia yra inda ara",
)

MALE_SYLLABLES = combinations(
    "Ar Bar Cal Dor Ed Fin Gar Har Iv Jor Kel Lan Mor Nor Os Per Quil Ron Sol Tar Ul Vin Wil Zor",
    "an en in on or ric ram dan mond ton ius eo",
)
