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
      "Who is the owner of the Luma Restaurant?",
      "On which day is the Linden Library closed?",
    ],
    text: `# Out and about

All of these are a short walk from the station.

## Harbour Museum
**Address:** 4 Quay Street
**Hours:** 10:00 am to 5:30 pm
**Closed on:** Monday
**Phone:** 555 0110

## Luma Restaurant
**Address:** 21 Mill Lane
**Hours:** 11:30 am to 10:45 pm
**Closed on:** Tuesday
**Seats:** 46
**Owner:** Teresa Holm

## Linden Library
**Address:** 9 Garden Square
**Hours:** 9:00 am to 8:00 pm
**Closed on:** Sunday
**Seats:** 120
**Wifi password:** maple-7204

## Copper Bakery
**Address:** 60 Old Bridge Road
**Hours:** 7:15 am to 1:30 pm
**Since:** 1931
**Owner:** Anton Girard

Parking is difficult on market days.`,
  },
  {
    id: "prices",
    name: "Price list of the shop",
    kind: "table",
    questions: ["How much is the Velora kettle?", "What colour is the Quivo lamp?", "Who makes the Orix camera?"],
    text: `# Price list

| Item | Price | Colour | Weight | In stock | Made by |
| --- | --- | --- | --- | --- | --- |
| Velora kettle | 74 euros | orange | 1.5 kg | 18 | Mara Lindqvist |
| Quivo lamp | 65 euros | gold | 3.2 kg | 27 | Anton Girard |
| Sandor toaster | 49 euros | white | 2.6 kg | 9 | Efua Mensah |
| Orix camera | 380 euros | black | 0.8 kg | 14 | Niamh Douglas |
| Tarmin clock | 132 euros | brown | 2.4 kg | 11 | Tomas Okafor |
| Belva printer | 210 euros | grey | 6.1 kg | 6 | Anton Girard |

Prices include tax. Delivery takes five days.`,
  },
  {
    id: "team",
    name: "New colleagues",
    kind: "prose",
    questions: ["Where does Mara Lindqvist live?", "How old is Tomas Okafor?", "What is Ines Duarte's job?"],
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
