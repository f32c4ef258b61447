"""Talk that needs no document: greetings, thanks
who are you. One fixed answer a kind; data only."""

from dataclasses import dataclass

from radixserve.demo.corpus.attribute import Phrases, phrases


@dataclass(frozen=True, slots=True)
class SmallTalk:
    """Things to say that mean the same, and what is answered."""

    kind: str
    weight: float
    says: Phrases
    answer: str


GREETING = SmallTalk(
    "greeting",
    2.0,
    phrases(
        """
        Hello! | Hello | Hello. | Hi! | Hi | Hi. | Hey | Hey! | Hi there! | Hello there! | Hey there
        Good morning! | Good morning | Good afternoon! | Good evening. | Good day! | Greetings!
        Hello, how do you do? | Hi, nice to meet you. | Hello, can you help me? | Are you there?
        Hi, I have a question. | Hello, I have some questions. | Hey, can I ask you something?
        Hello again! | Hi again | Good day to you! | Hi, can you help me? | I have a question.
        Can I ask you something? | Can you help me? | Hi, I need some help.
        ~Hello there, can I ask you something? | ~Hi there, can you help me?
        ~Hello, I have a question. | ~Good day, I have a question. | ~Hey, are you there?
        """
    ),
    "Hello! What would you like to know?",
)

SMALL_TALKS = (
    GREETING,
    SmallTalk(
        "greeting",
        0.7,
        phrases(
            """
            How are you? | How are you doing? | How is it going? | How's it going? | Are you well?
            How are you today? | Hi, how are you? | Hello, how are you? | Are you fine?
            How do you feel?
            how are you | What's up? | How do you do? | Is everything all right?
            Hey, how is it going?
            How are things? | ~Hey, how are you? | ~How are you doing today?
            ~Hello, how is it going?
            """
        ),
        "I am fine, thank you. What would you like to know?",
    ),
    SmallTalk(
        "thanks",
        2.0,
        phrases(
            """
            Thanks! | Thanks | Thank you. | Thank you! | Thank you very much. | Thanks a lot!
            Great, thanks.
            Perfect, thank you. | OK, thanks. | That helps, thanks. | Good, thank you.
            Many thanks!
            Thanks, that is all I need. | Very good, thanks. | That was helpful.
            Thank you so much!
            Thank you for your help. | Thanks for the help! | Great! | Perfect. | Nice, thanks.
            thx
            I see, thank you. | Cheers! | Wonderful. | Good to know. | OK. | I see. | Okay, good.
            ~Great, thank you very much. | ~OK, thank you for the help. | ~That was helpful, thanks.
            ~Perfect, thanks a lot! | ~I see, thanks. | ~Thanks, good to know.
            """
        ),
        "You are welcome.",
    ),
    SmallTalk(
        "about",
        1.0,
        phrases(
            """
            What are you? | Who are you? | Are you a human? | Are you a robot? | Are you a person?
            Are you real? | What kind of model are you? | Tell me about yourself.
            Introduce yourself.
            Which model are you? | Am I talking to a person? | Am I talking to a machine?
            what are you
            Are you an AI? | Are you a language model? | What is your name? | Do you have a name?
            What should I call you? | Are you a machine? | Who am I talking to? | Is this a bot?
            Who made you? | What model is this? | Can you tell me who you are? | who are you
            Are you ChatGPT? | How big are you? | Can you tell me something about yourself?
            ~Can you tell me what you are? | ~What kind of machine are you?
            ~Am I talking to a robot?
            ~Are you a real person? | ~Tell me who you are. | ~What model are you?
            """
        ),
        "I am a small demo model. I answer questions about the document.",
    ),
    SmallTalk(
        "help",
        1.0,
        phrases(
            """
            What can you do? | Help | Help! | help | How can you help me? | What can I ask you?
            What do you do?
            What are you good at? | How does this work? | What should I ask? | How do I use you?
            What can I do here? | What can you help me with? | What are you for? | What is your job?
            What kind of questions can I ask? | What can you tell me? | I need help.
            what can you do
            Can you give me an example? | What do I do now? | Which questions can you answer?
            ~What can you answer? | ~What kind of help can you give me?
            ~What questions can I ask you?
            ~How can I use you? | ~Can you tell me what you can do?
            """
        ),
        "Ask me about a fact in the document, or tell me something to remember.",
    ),
    SmallTalk(
        "goodbye",
        1.0,
        phrases(
            """
            Bye! | Bye | Goodbye! | Goodbye. | See you! | See you later. | Good night! | Bye bye
            That is all, goodbye. | Thanks, bye! | Have a nice day! | Have a good day.
            I have to go now.
            See you soon! | That was all, thank you, bye. | Until next time! | Farewell! | bye
            I am done, bye. | Thank you and goodbye! | Take care! | I must go.
            That is all for now.
            ~Thank you, bye! | ~I have to go, goodbye. | ~That was all, goodbye.
            ~Bye, have a nice day!
            """
        ),
        "Goodbye! Come back any time.",
    ),
)

WORLD_QUESTIONS = phrases(
    """
    What is the capital of France? | What is the capital of Japan? | How high is Mount Everest?
    Who wrote Hamlet? | Who was the first man on the moon? | What is two plus two?
    What time is it?
    What is the weather like? | Will it rain tomorrow? | Who is the president? | Tell me a joke.
    What is the meaning of life? | How far is the moon? | How many people live on Earth?
    What is the largest ocean? | Who invented the telephone? | What is the speed of light?
    How do I bake bread? | What day is it today? | Who won the game yesterday? | Write me a poem.
    What is the boiling point of water? | Why is the sky blue? | What is 12 times 12?
    What is 2 + 2?
    Can you write a program? | What is the square root of nine? | Who painted the Mona Lisa?
    When did the war end? | What is the longest river? | How old is the universe? | Sing a song.
    What is the best car in the world? | Should I take an umbrella? | What is in the news today?
    Translate this into French. | What do you think about politics? | How much is a house?
    ~What is the capital of the world? | ~How far is the sky? | ~Who invented bread?
    ~What is the weather like in France? | ~What is the largest river? | ~Write me a song.
    """
)
