"""Sizes of the models and batches in contests, and the operations that they take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama with tied embeddings, and a batch of prompts with answers.

    Attributes:
        vocabulary: Number of token ids.
        hidden: Width of the hidden states.
        feed_forward: Width of the feed-forward layers.
        layers: Number of layers.
        heads: Number of attention heads.
        batch: Prompts in a PPO step, or pairs in a step of the reward model.
        prompt: Exact number of tokens of each prompt; there is no padding.
        response: Exact number of tokens of each answer; none ends earlier.

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
        """Return the sizes as a worker's specification."""
        return {name: getattr(self, name) for name in self.__slots__}

    def parameters(self) -> int:
        """Count the parameters of the matrices; the head is the embedding."""
        return self.trunk_parameters() + self.vocabulary * self.hidden

    def trunk_parameters(self) -> int:
        """Count the parameters of the matrices without the embeddings."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.feed_forward)

    def forward_flops(self, *, head: bool) -> float:
        """Return the operations of a forward pass per token of a sequence of full length.

        This is a third of the 6N + 12LHQT of a training step in PaLM (Chowdhery et al. 2022,
        arXiv:2204.02311, appendix B), with or without the output head.
        """
        parameters = self.trunk_parameters() + (self.vocabulary * self.hidden if head else 0)
        return 2 * parameters + 4 * self.layers * self.hidden * (self.prompt + self.response)

    def ppo_flops(self, *, epochs: int, own_critic: bool) -> float:
        """Return the minimum number of operations of one PPO step.

        Sampling, the reference policy and the reward model process each token once. So does a
        critic with its own trunk, which is trained like the policy.
        """
        tokens = self.batch * (self.prompt + self.response)
        policy, scalar = self.forward_flops(head=True), self.forward_flops(head=False)
        trained = policy + (scalar if own_critic else 0)
        once = policy + policy + scalar + (scalar if own_critic else 0)
        return tokens * (once + epochs * 3 * trained)

    def reward_flops(self, sequences: int) -> float:
        """Return the operations of training a reward model on this number of sequences."""
        tokens = sequences * (self.prompt + self.response)
        return tokens * 3 * self.forward_flops(head=False)


SIZES = {
    "tiny": Size(512, 64, 172, 2, 2, batch=8, prompt=16, response=16),
    "5M": Size(4096, 256, 688, 5, 4, batch=16, prompt=16, response=32),
    "0.5B": Size(32768, 1280, 3456, 24, 20, batch=64, prompt=128, response=128),
}
