// Invented answers that use every kind of Markdown the page draws.

const prose = `Rivers shape valleys by **three processes** that work together:

1. **Erosion**: moving water lifts grains from the bed.
2. **Transport**: what was lifted travels downstream.
   - fine silt stays in suspension
   - gravel rolls and hops
3. **Deposition**: where the current slows, it drops its load.

> A young river cuts down; an old one cuts sideways.

The stream power $\\Omega = \\rho g Q S$ tells how much work water can do, with discharge $Q$ and slope $S$. Over a reach:

$$
\\frac{\\partial z}{\\partial t} = U - K A^{m} \\left| \\frac{\\partial z}{\\partial x} \\right|^{n}
$$

| Stage | Slope | Valley | Typical form |
|---|---:|---|---|
| Youth | 5 % | V-shaped | rapids, gorges |
| Maturity | 0.5 % | wide | meanders |
| Old age | 0.02 % | plain | oxbow lakes |

See the [overview](https://example.org/rivers) or ![a delta from above](https://example.org/delta.png).
`;

const code = `Here is a function that merges two sorted lists in linear time:

\`\`\`python
def merge(left: list[int], right: list[int]) -> list[int]:
    """Merge two sorted lists into one."""
    merged, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:  # keeps equal items in order
            merged.append(left[i]); i += 1
        else:
            merged.append(right[j]); j += 1
    return merged + left[i:] + right[j:]
\`\`\`

It visits every item once, so it takes \\(O(n + m)\\) steps. Use \`heapq.merge\` when the inputs are streams:

\`\`\`sh
python -c "import heapq; print(list(heapq.merge([1, 4], [2, 3])))"
\`\`\`
`;

const zh = `河流通过三个过程塑造山谷：**侵蚀**、**搬运**和**沉积**。

- 年轻的河流主要向下切割，形成 V 形谷；
- 成熟的河流向两侧摆动，形成曲流。

水流功率为 $\\Omega = \\rho g Q S$，其中 $Q$ 是流量，$S$ 是坡度。
`;

export const ANSWERS = { prose, code, '解释河流如何塑造山谷': zh };
