/**
 * Ready-made system prompts and documents, and the one place that says how they become a system
 * message: the instructions, an empty line, the documents with empty lines between.
 *
 * The documents are of the kinds that the demo model was made for (records, tables, prose), in the
 * manner of its corpus. Equal choices make equal messages, byte for byte: that is what the cache
 * goes by.
 */

export const PRESETS = [
  {
    name: "From the document",
    text: "You are a helpful assistant. Answer from the document only. If the document does not say it, say so.",
  },
  {
    name: "Front desk",
    text: "You work at our front desk. Keep your answers short. Do not make anything up.",
  },
  { name: "Plain assistant", text: "You are a helpful assistant." },
];

export const DOCUMENTS = [
  {
    id: "places",
    name: "Out and about",
    kind: "records",
    questions: [
      "When does the Harbour Museum open?",
      "Which place is at 21 Mill Lane?",
      "On which day is the Linden Library closed?",
    ],
    text: `# Out and about

All of these are a short walk from the station.

## Harbour Museum
**Address:** 4 Quay Street
**Opens at:** 10:00 am
**Closes at:** 5:30 pm
**Closed on:** Monday
**Admission:** 8 euros
**Phone:** 555 0110

## Luma Restaurant
**Address:** 21 Mill Lane
**Opens at:** 11:30 am
**Closes at:** 10:45 pm
**Closed on:** Tuesday
**Seats:** 46
**Owner:** Teresa Holm
**Phone:** 555 0142

## Linden Library
**Address:** 9 Garden Square
**Opens at:** 9:00 am
**Closes at:** 8:00 pm
**Closed on:** Sunday
**Seats:** 120
**Wifi password:** maple-7204

## Saturday Market
**Address:** 60 Old Bridge Road
**Opens at:** 7:15 am
**Closes at:** 1:30 pm
**Founded in:** 1931

Parking is difficult on market days.`,
  },
  {
    id: "prices",
    name: "Workshop price list",
    kind: "table",
    questions: ["How much is the brass lamp?", "Which item weighs 12 kg?", "How many wool carpets are in stock?"],
    text: `# Price list of the workshop

| Item | Price | Colour | Weight | In stock | Made by |
| --- | --- | --- | --- | --- | --- |
| Oak table | 240 euros | brown | 31 kg | 4 | Anton Girard |
| Brass lamp | 65 euros | gold | 3 kg | 27 | Mara Lindqvist |
| Wool carpet | 180 euros | red | 12 kg | 9 | Efua Mensah |
| Steel shelf | 95 euros | grey | 18 kg | 14 | Anton Girard |
| Glass vase | 28 euros | blue | 2 kg | 52 | Niamh Douglas |
| Pine bench | 110 euros | white | 14 kg | 6 | Tomas Okafor |
| Copper kettle | 74 euros | orange | 1.5 kg | 18 | Mara Lindqvist |
| Walnut clock | 132 euros | black | 2.4 kg | 11 | Niamh Douglas |

Prices include tax. Delivery takes five days.`,
  },
  {
    id: "team",
    name: "New colleagues",
    kind: "prose",
    questions: ["Where does Mara Lindqvist live?", "Who has a dog called Pepper?", "What is Ines Duarte's job?"],
    text: `## New colleagues

Four people joined us this spring. Everybody here is happy to help.

Mara Lindqvist works as an architect and lives in Lisbon. She is 41 years old and sits at desk K12. Her favourite colour is green.

Tomas Okafor is our new baker. He is 34 years old, lives in Bristol and has a dog called Pepper. His phone number is 555 0163.

Ines Duarte works as a gardener. She lives in Ghent, was born in Porto and sits at desk F5. Ines Duarte has a cat called Olive. Her phone number is 555 0198.

Sekou Nyberg joined the training team. He works as a piano tuner, lives in Tampere and is 52 years old. His favourite food is onion soup.

Please make them feel welcome. Coffee is on the second floor.`,
  },
  {
    id: "programme",
    name: "Festival programme",
    kind: "mixed",
    questions: ["When does the Tango Concert begin?", "Who leads the Robot Lecture?", "How much is the poached salmon?"],
    text: `# Festival programme

| Event | Day | Begins at | Room | Leader | Seats |
| --- | --- | --- | --- | --- | --- |
| Robot Lecture | 12 June | 2:30 pm | room 63 | Aino Farouk | 80 |
| Tango Concert | 12 June | 8:15 pm | room 138 | Lars Teixeira | 210 |
| Poetry Auction | 13 June | 11:00 am | room 11 | Huda Pelley | 45 |
| Writing Quiz | 13 June | 4:45 pm | room 21 | Emeka Brandt | 60 |
| Hiking Breakfast | 14 June | 7:30 am | - | Helmi Popescu | 25 |

Registration closes a day before. The doors open half an hour earlier.

## From the kitchen
- Roasted cabbage: price 9 euros, served on Friday, allergen nuts
- Poached salmon: price 17 euros, served on Saturday, allergen fish
- Lentil soup: price 6 euros, served every day

== How to get here ==
Train 8553 arrives at 9:30 am and goes on to Ghent. Train 2402 arrives at 1:05 pm. Bicycles can be left behind the main building.`,
  },
];

/** The system message of these instructions and documents; empty if there are neither. */
export function systemMessage(instructions, documents) {
  return [instructions.trim(), ...documents.map((text) => text.trim())].filter(Boolean).join("\n\n");
}
