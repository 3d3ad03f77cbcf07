"""The models and batches that contests are run on, and how many operations they take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama with tied embeddings and random weights, and a batch of prompts with answers.

    Attributes:
        batch: Prompts in a PPO step, pairs in a step of the reward model.
        prompt: Tokens of each prompt; exact, nothing is padded.
        response: Tokens of each answer; exact, no answer ends before.

    """

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    batch: int
    prompt: int
    response: int

    def spec(self) -> dict[str, int]:
        """Return it as what a worker is told."""
        return {name: getattr(self, name) for name in self.__slots__}

    def trunk_parameters(self) -> int:
        """Count the matrices' parameters without the embeddings."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.feed_forward)

    def forward_flops(self, *, head: bool) -> float:
        """Return the operations of a forward pass for one token of a sequence of full length.

        A third of the 6N + 12LHQT of a training step in PaLM (Chowdhery et al. 2022,
        arXiv:2204.02311, appendix B), with or without the output head.
        """
        parameters = self.trunk_parameters() + (self.vocabulary * self.hidden if head else 0)
        return 2 * parameters + 4 * self.layers * self.hidden * (self.prompt + self.response)

    def ppo_flops(self, *, epochs: int, own_critic: bool) -> float:
        """Return the operations that one PPO step needs, whoever does more.

        Sampling, reference and reward model see each token once; so does the critic, which is
        trained like the policy, where it has a trunk of its own.
        """
        tokens = self.batch * (self.prompt + self.response)
        policy, scalar = self.forward_flops(head=True), self.forward_flops(head=False)
        trained = policy + (scalar if own_critic else 0)
        once = policy + policy + scalar + (scalar if own_critic else 0)
        return tokens * (once + epochs * 3 * trained)

    def reward_flops(self, sequences: int) -> float:
        """Return the operations of training a reward model on so many sequences."""
        tokens = sequences * (self.prompt + self.response)
        return tokens * 3 * self.forward_flops(head=False)


SIZES = {
    "5M": Size(4096, 256, 688, 5, 4, batch=16, prompt=16, response=32),
    "0.5B": Size(32768, 1280, 3456, 24, 20, batch=64, prompt=128, response=128),
}
